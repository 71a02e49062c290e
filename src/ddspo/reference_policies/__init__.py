"""References: what the policy is measured against, for good or for a while."""

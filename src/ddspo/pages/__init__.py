"""What people look at: the report's page, the page that votes, and what both show."""

"""Policy pairs: who supplies the reference and the target predictions of both branches."""

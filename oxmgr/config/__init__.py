"""What users write → specs. Imported by the commands that need it, never by the daemon."""

"""The daemon. It only supervises: what may be imported here is in docs/architecture.md, and a test looks."""

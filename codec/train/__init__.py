"""Training: configuration, the task, callbacks and the application."""

"""The `surgery` command: one file a command, imported when the command is invoked."""

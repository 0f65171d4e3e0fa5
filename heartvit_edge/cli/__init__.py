"""The command line: one module a command, each reading files, calling one library function and writing files."""

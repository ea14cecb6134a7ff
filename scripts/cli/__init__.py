"""What every command shares: its command line, one-line errors, signals while it imports, tables and curves in a terminal."""

"""What commands share: command lines, one-line errors, signals during imports, tables and curves in a terminal."""

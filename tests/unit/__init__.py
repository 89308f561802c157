"""What one module promises, without a database, a server or a clock."""

"""What people see who use the service as a whole."""

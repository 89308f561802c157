"""Kill the service and its database under load, again and again, and prove that nothing acknowledged was lost."""

"""Commands: `flask …`. A command is in the file of its name, in the folder of its group if that has one."""

# Read by every `flask …` command in this folder.
FLASK_APP=app

"""The server itself, below the application: where it listens, its worker processes, and its connections.

It knows nothing of the domain. granian brings HTTP and the processes; what is here is what it does otherwise than a
service needs that must never be away.
"""

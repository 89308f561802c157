"""The HTTP server below the application: its address, its worker processes, its connections, its event loop.

granian brings HTTP and the processes. These files add what a service needs that must never be away:

- `rsgi_to_wsgi`: a slow client costs a socket, not a thread; requests that wait for a thread are bounded in number and
  time; a response that is not known yet keeps no thread, and what never blocks is called on the event loop.
- `connections`: a head that does not end, and a response that is not read, end their connection.
- `supervisor` and `listening`: workers are replaced one by one and without a lost request, and those that die are
  started again.

A proxy in front that buffers requests and responses, as nginx does unless told otherwise, does the first half of the
first and the second too, if its time-outs for heads and bodies are short. Behind such a proxy any WSGI server serves
`app.wsgi:application`; what is lost is that each delivery keeps a thread until its transaction has committed, so that
no more deliveries share one than there are threads.

Nothing here knows the domain: limits, paths and checks are arguments.
"""

"""HTTP/1.1 and WebSockets on the event loop that handles them: bytes in, calls and messages out.

Everything of a request, from its bytes to its answer, happens in the one thread that handles it, so that
nothing is handed between threads, no lock is waited for, and what is written is written at once.
"""

"""What the backends share that ask a server over HTTP: connections with limits, and a pool of requests in flight."""

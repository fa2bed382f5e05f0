//! Kubernetes streaming protocols: SPDY/3.1 and WebSocket for exec, attach, port-forward.

//! What a container has unless told otherwise: Docker's defaults.

//! DNS for services and pods.

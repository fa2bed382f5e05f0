//! Certificates, keys and signed tokens.

//! Kubernetes kinds, schema, codecs, defaults, validation, selectors, patches. Pure: no I/O, no clock.

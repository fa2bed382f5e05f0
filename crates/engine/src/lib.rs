//! The Docker object model: containers, images, volumes, networks, events.

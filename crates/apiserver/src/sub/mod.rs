//! Subresources and reviews: documents that are answered, not stored.

mod pods;
mod reviews;
mod scale;
mod tokens;

//! A runtime without processes, for simulations and other crates' tests.

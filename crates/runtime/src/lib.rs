//! Runs one container at a time: shim, exec, standard streams, logs, statistics.

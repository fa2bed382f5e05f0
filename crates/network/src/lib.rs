//! Bridges, addresses, veth pairs and nftables.

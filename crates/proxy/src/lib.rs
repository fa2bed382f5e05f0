//! Services on this node, in nftables.

"""Networks: one folder each, of configuration, network and layers."""

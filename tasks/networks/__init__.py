"""Specs of networks, one per file: the module `resnet50_mi` defines the kind `resnet50-mi`."""

"""Specs of networks, one per file. A kind `resnet50-mi` is the module `resnet50_mi`."""

"""The torch modules behind the network specs."""

"""The portal: what an organisation's people do in a browser. It calls services and reads what they may see."""

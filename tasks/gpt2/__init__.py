"""GPT-2 pre-trained on text: the paper's language modelling."""

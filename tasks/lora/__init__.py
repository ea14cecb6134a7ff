"""A language model fine-tuned with LoRA to answer yes/no questions: the paper's Mistral-7B on PubMedQA."""

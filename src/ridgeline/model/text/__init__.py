"""Text: tokenizers, chat templates and the streaming detokenizer.

| file | subject |
| --- | --- |
| tokenizer.py | `Tokenizer`: text to ids and back |
| vocabulary.py | a GGUF file's vocabulary, checked |
| special_tokens.py | special tokens are cut out first |
| pre_tokenizers.py, byte_level.py | byte-level BPE from GGUF |
| sentencepiece.py | SentencePiece-style BPE from GGUF |
| huggingface.py | a Hugging Face directory |
| detokenizer.py | `Detokenizer`, `StopMatcher`: text out of a stream of ids |
| chat.py, template*.py | `ChatTemplate`: messages to the text that a model was trained on |
"""

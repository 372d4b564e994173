"""Architectures that transformers does not have; importing this makes its Auto classes know them."""

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification

from bench.models.chatglm import (
    ChatGLMConfig,
    ChatGLMForCausalLM,
    ChatGLMForSequenceClassification,
    ChatGLMModel,
)

AutoConfig.register("chatglm", ChatGLMConfig, exist_ok=True)
AutoModel.register(ChatGLMConfig, ChatGLMModel, exist_ok=True)
AutoModelForCausalLM.register(ChatGLMConfig, ChatGLMForCausalLM, exist_ok=True)
AutoModelForSequenceClassification.register(ChatGLMConfig, ChatGLMForSequenceClassification, exist_ok=True)

namespace llmft {}

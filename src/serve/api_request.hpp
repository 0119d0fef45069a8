// The JSON of OpenAI's two endpoints, read and checked in full before anything is submitted.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "llmft/data/chat_template.hpp"
#include "llmft/generate/engine.hpp"

namespace llmft {

enum class Endpoint { chat, completions };

struct ServedModel {
  std::string id;
  AnswerWeights weights = AnswerWeights::base;
};

// What a request is checked against.
struct ApiContext {
  const Tokenizer& tokenizer;
  TemplateKind chat_template = TemplateKind::automatic;
  std::vector<ServedModel> models;  // the last one answers where a request names none
  int64_t max_context = 0;
  int64_t max_tokens = 0;  // of an answer; 0: what the context leaves
  int64_t capacity = 0;    // requests that can be held at all
};

struct ApiRequest {
  Endpoint endpoint = Endpoint::chat;
  std::string model;
  std::vector<GenerationRequest> choices;  // of prompt p: p * n ... p * n + n - 1
  std::vector<std::string> echo;           // text in front of each choice's answer; empty: none
  int64_t n = 1;
  bool stream = false;
  bool include_usage = false;
  bool running_usage = false;  // with every chunk, as vLLM's continuous_usage_stats
};

// ApiError: not JSON, wrong types, out of range, a model that is not served, a prompt that does not fit, what
// this server does not do (tools, logprobs, images, penalties other than repetition_penalty).
ApiRequest parse_api_request(Endpoint endpoint, std::string_view body, const ApiContext& context);

}  // namespace llmft

#include "api_request.hpp"

#include <atomic>
#include <limits>
#include <random>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "api_error.hpp"
#include "json_fields.hpp"
#include "llmft/base/rng.hpp"

namespace llmft {
namespace {

using nlohmann::json;

constexpr int64_t kMaxChoices = 64;
constexpr int64_t kMaxStops = 16;
constexpr size_t kMaxStopBytes = 512;
constexpr int64_t kCompletionTokens = 16;  // OpenAI's default for /v1/completions

uint64_t fresh_seed() {
  static const uint64_t start =
      (static_cast<uint64_t>(std::random_device{}()) << 32) ^ std::random_device{}();
  static std::atomic<uint64_t> count = 0;
  return mix64(start + ++count);
}

uint64_t seed_of(const json& object) {
  const json& value = field(object, "seed");
  if (value.is_null()) return fresh_seed();
  if (!value.is_number_integer())
    invalid("seed", fmt::format("'seed' must be an integer, not {}", value.type_name()));
  return value.is_number_unsigned() ? value.get<uint64_t>() : static_cast<uint64_t>(value.get<int64_t>());
}

std::vector<std::string> stops_of(const json& object) {
  const json& value = field(object, "stop");
  std::vector<std::string> stops;
  if (value.is_null()) return stops;
  auto add = [&](const json& stop) {
    if (!stop.is_string())
      invalid("stop",
              fmt::format("'stop' must be a string or an array of strings, not {}", stop.type_name()));
    stops.push_back(stop.get<std::string>());
    if (stops.back().empty()) invalid("stop", "'stop' has an empty string; leave it out");
    if (stops.back().size() > kMaxStopBytes)
      invalid("stop", fmt::format("a string of 'stop' is longer than {} bytes", kMaxStopBytes));
  };
  if (value.is_array())
    for (const json& stop : value) add(stop);
  else
    add(value);
  if (static_cast<int64_t>(stops.size()) > kMaxStops)
    invalid("stop", fmt::format("'stop' has more than {} strings", kMaxStops));
  return stops;
}

SamplingParams sampling_of(const json& body) {
  SamplingParams sampling;
  sampling.temperature = real(body, "temperature", 1, 0, 2);
  sampling.top_p = real(body, "top_p", 1, 0, 1);
  if (sampling.top_p == 0) {  // the smallest set that has any mass: the likeliest token
    sampling.top_p = 1;
    sampling.temperature = 0;
  }
  sampling.top_k = integer(body, "top_k", 0, -1, std::numeric_limits<int32_t>::max());
  if (sampling.top_k < 0) sampling.top_k = 0;  // vLLM's "off"
  sampling.min_p = real(body, "min_p", 0, 0, 1);
  sampling.repetition_penalty = real(body, "repetition_penalty", 1, 0.01, 100);
  sampling.seed = seed_of(body);
  sampling.stop = stops_of(body);
  return sampling;
}

void refuse_unsupported(const json& body, Endpoint endpoint) {
  auto set = [&](const char* name) {
    const json& value = field(body, name);
    return !value.is_null() && value != false && value != json::array() && value != json::object();
  };
  if (endpoint == Endpoint::chat ? set("logprobs") || set("top_logprobs") : set("logprobs"))
    unsupported("logprobs", "this server gives no log probabilities; leave it out");
  for (const char* name : {"tools", "functions"})
    if (set(name)) unsupported(name, "this server calls no tools; leave it out");
  if (set("logit_bias")) unsupported("logit_bias", "this server has no logit bias; leave it out");
  for (const char* name : {"frequency_penalty", "presence_penalty"})
    if (real(body, name, 0, -2, 2) != 0)
      unsupported(name, "this server has repetition_penalty (1: off) instead; leave it out or give 0");
  const json& format = field(body, "response_format");
  if (!format.is_null() && !(format.is_object() && field(format, "type") == "text"))
    unsupported("response_format", "this server answers with plain text only; leave it out");
  const json& modalities = field(body, "modalities");
  if (!modalities.is_null() && modalities != json::array({"text"}))
    unsupported("modalities", "this server has text only; leave it out");
  if (set("audio")) unsupported("audio", "this server has text only; leave it out");
  if (set("suffix") && field(body, "suffix") != "")
    unsupported("suffix", "this server does not fill in; leave it out");
  if (set("best_of") && field(body, "best_of") != 1)
    unsupported("best_of", "this server has n instead; leave it out");
}

const ServedModel& model_of(const json& body, const ApiContext& context) {
  const json& value = field(body, "model");
  if (value.is_null()) return context.models.back();
  if (!value.is_string())
    invalid("model", fmt::format("'model' must be a string, not {}", value.type_name()));
  std::string names;
  for (const ServedModel& model : context.models) {
    if (model.id == value) return model;
    names += (names.empty() ? "'" : ", '") + model.id + "'";
  }
  throw ApiError(404, fmt::format("the model {} is not served here; there is {}", shown(value), names),
                 "model", "model_not_found");
}

std::string content_of(const json& content, const std::string& where) {
  if (content.is_null()) return "";
  if (content.is_string()) return content.get<std::string>();
  if (!content.is_array())
    invalid(where,
            fmt::format("'{}' must be a string or an array of parts, not {}", where, content.type_name()));
  std::string text;
  for (const json& part : content) {
    if (!part.is_object())
      invalid(where, fmt::format("a part of '{}' must be an object, not {}", where, part.type_name()));
    const json& type = field(part, "type");
    if (type != "text")
      invalid(where,
              fmt::format("'{}' has a part of type {}; this model reads text only", where, shown(type)),
              "unsupported_content");
    if (!field(part, "text").is_string())
      invalid(where, fmt::format("a text part of '{}' has no string 'text'", where));
    text += field(part, "text").get<std::string>();
  }
  return text;
}

std::vector<int32_t> chat_prompt(const json& body, const ApiContext& context) {
  const json& messages = field(body, "messages");
  if (!messages.is_array() || messages.empty())
    invalid("messages", "'messages' must be an array of at least one message");
  std::vector<ChatTurn> turns;
  for (size_t i = 0; i < messages.size(); ++i) {
    const json& message = messages[i];
    std::string where = fmt::format("messages[{}]", i);
    if (!message.is_object())
      invalid(where, fmt::format("'{}' must be an object, not {}", where, message.type_name()));
    const json& role = field(message, "role");
    ChatTurn turn;
    if (role == "system" || role == "developer")
      turn.role = ChatRole::system;
    else if (role == "user")
      turn.role = ChatRole::user;
    else if (role == "assistant")
      turn.role = ChatRole::assistant;
    else
      invalid(where + ".role", fmt::format("'{}.role' must be system, developer, user or assistant, not {}",
                                           where, shown(role)));
    if (turn.role != ChatRole::assistant && field(message, "content").is_null())
      invalid(where + ".content",
              fmt::format("'{}.content' is needed: a string or an array of parts", where));
    turn.text = content_of(field(message, "content"), where + ".content");
    turns.push_back(std::move(turn));
  }
  std::vector<TokenId> ids;
  ChatTemplate(context.chat_template, context.tokenizer).encode_conversation(turns, ids);
  return {ids.begin(), ids.end()};
}

// Text is taken with names of special tokens as these tokens, for who writes a template by hand; BOS stands
// once.
std::vector<int32_t> text_prompt(const std::string& text, const ApiContext& context) {
  std::vector<TokenId> ids;
  context.tokenizer.encode_with_special(text, ids);
  auto bos = find_bos(context.tokenizer);
  if (bos && (ids.empty() || ids[0] != *bos)) ids.insert(ids.begin(), *bos);
  return {ids.begin(), ids.end()};
}

std::vector<int32_t> token_prompt(const json& list, const ApiContext& context) {
  std::vector<int32_t> ids;
  auto size = static_cast<int64_t>(context.tokenizer.vocabulary_size());
  for (const json& id : list) {
    if (!id.is_number_unsigned() || id.get<uint64_t>() >= static_cast<uint64_t>(size))
      invalid("prompt",
              fmt::format("'prompt' has {}, which is not a token id (0 to {} are)", shown(id), size - 1));
    ids.push_back(id.get<int32_t>());
  }
  return ids;
}

std::vector<std::vector<int32_t>> completion_prompts(const json& body, const ApiContext& context) {
  const json& prompt = field(body, "prompt");
  if (prompt.is_string()) return {text_prompt(prompt.get<std::string>(), context)};
  if (!prompt.is_array() || prompt.empty())
    invalid(
        "prompt",
        "'prompt' must be a string, an array of strings, an array of token ids, or an array of such arrays");
  if (prompt[0].is_number()) return {token_prompt(prompt, context)};
  if (static_cast<int64_t>(prompt.size()) > kMaxChoices)
    invalid("prompt", fmt::format("'prompt' has more than {} prompts", kMaxChoices));
  std::vector<std::vector<int32_t>> prompts;
  for (const json& one : prompt) {
    if (one.is_string())
      prompts.push_back(text_prompt(one.get<std::string>(), context));
    else if (one.is_array())
      prompts.push_back(token_prompt(one, context));
    else
      invalid("prompt", fmt::format("'prompt' has a {} among its prompts", one.type_name()));
  }
  return prompts;
}

// 0: not given. OpenAI's newer name wins.
int64_t asked_tokens(const json& body, const char*& name) {
  constexpr int64_t kMost = std::numeric_limits<int32_t>::max();
  for (const char* candidate : {"max_completion_tokens", "max_tokens"}) {
    name = candidate;
    if (int64_t asked = integer(body, candidate, 0, 1, kMost); asked != 0) return asked;
  }
  return 0;
}

int64_t answer_tokens(const json& body, Endpoint endpoint, int64_t prompt_tokens, const ApiContext& context) {
  const char* name = "";
  int64_t asked = asked_tokens(body, name);
  if (prompt_tokens >= context.max_context)
    invalid(endpoint == Endpoint::chat ? "messages" : "prompt",
            fmt::format(
                "the prompt has {} tokens, and the context of {} leaves no room for an answer; shorten it",
                prompt_tokens, context.max_context),
            "context_length_exceeded");
  int64_t room = context.max_context - prompt_tokens;
  if (context.max_tokens > 0 && asked > context.max_tokens)
    invalid(name, fmt::format("'{}' is {}, and this server gives answers of at most {} tokens", name, asked,
                              context.max_tokens));
  if (asked > room)
    invalid(
        name,
        fmt::format(
            "the prompt's {} tokens and the {} asked for ('{}') exceed the context of {}; ask for at most {}",
            prompt_tokens, asked, name, context.max_context, room),
        "context_length_exceeded");
  if (asked == 0) asked = endpoint == Endpoint::chat ? room : std::min(room, kCompletionTokens);
  return context.max_tokens > 0 ? std::min(asked, context.max_tokens) : asked;
}

json parse_object(std::string_view text) {
  json body;
  try {
    body = json::parse(text);
  } catch (const json::exception& e) {
    // the parser quotes what it read last, which can be all of the body
    invalid("", fmt::format("the request's body is not valid JSON: {:.300}", e.what()));
  }
  if (!body.is_object())
    invalid("", fmt::format("the request's body must be a JSON object, not {}", body.type_name()));
  return body;
}

}  // namespace

ApiRequest parse_api_request(Endpoint endpoint, std::string_view text, const ApiContext& context) {
  json body = parse_object(text);
  ApiRequest request;
  request.endpoint = endpoint;
  const ServedModel& model = model_of(body, context);
  request.model = model.id;
  refuse_unsupported(body, endpoint);
  request.n = integer(body, "n", 1, 1, kMaxChoices);
  request.stream = boolean(body, "stream");
  const json& stream_options = field(body, "stream_options");
  if (!stream_options.is_null()) {
    if (!stream_options.is_object()) invalid("stream_options", "'stream_options' must be an object");
    if (!request.stream) invalid("stream_options", "'stream_options' is of use only with 'stream': true");
    request.include_usage = boolean(stream_options, "include_usage");
    request.running_usage = boolean(stream_options, "continuous_usage_stats");
  }
  SamplingParams sampling = sampling_of(body);
  bool echo = endpoint == Endpoint::completions && boolean(body, "echo");

  std::vector<std::vector<int32_t>> prompts;
  if (endpoint == Endpoint::chat)
    prompts.push_back(chat_prompt(body, context));
  else
    prompts = completion_prompts(body, context);
  int64_t total = static_cast<int64_t>(prompts.size()) * request.n;
  if (int64_t most = std::min(kMaxChoices, context.capacity); total > most)
    invalid("n", fmt::format("{} prompts and 'n' {} make {} answers; this server gives at most {} at a time",
                             prompts.size(), request.n, total, most));
  for (const std::vector<int32_t>& prompt : prompts) {
    if (prompt.empty()) invalid("prompt", "'prompt' is empty");
    sampling.max_tokens = answer_tokens(body, endpoint, static_cast<int64_t>(prompt.size()), context);
    for (int64_t i = 0; i < request.n; ++i) {
      GenerationRequest choice{prompt, sampling, model.weights};
      choice.sampling.seed += static_cast<uint64_t>(i);
      request.choices.push_back(std::move(choice));
      if (!echo) continue;
      std::vector<TokenId> ids(prompt.begin(), prompt.end());
      auto bos = find_bos(context.tokenizer);
      if (bos && !ids.empty() && ids[0] == *bos) ids.erase(ids.begin());
      request.echo.push_back(context.tokenizer.decode(ids));
    }
  }
  return request;
}

}  // namespace llmft

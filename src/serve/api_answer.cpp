// The fields and their order of events are what OpenAI's clients read: a first delta with the role, deltas
// with text, one with finish_reason, on demand one with usage and no choices, then [DONE].
#include "api_answer.hpp"

#include <atomic>
#include <ctime>
#include <random>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "api_error.hpp"
#include "llmft/base/rng.hpp"

namespace llmft {
namespace {

using nlohmann::ordered_json;

std::string new_id(Endpoint endpoint) {
  static const uint64_t start =
      (static_cast<uint64_t>(std::random_device{}()) << 32) ^ std::random_device{}();
  static std::atomic<uint64_t> count = 0;
  uint64_t n = ++count;
  return fmt::format("{}-{:016x}{:08x}", endpoint == Endpoint::chat ? "chatcmpl" : "cmpl", mix64(start + n),
                     n);
}

std::string dump(const ordered_json& value) {
  return value.dump(-1, ' ', false, ordered_json::error_handler_t::replace);
}

const ApiError& ending() {
  static const ApiError error(503, "the server is ending; the answer is not complete", "", "server_ending");
  return error;
}

}  // namespace

ApiAnswer::ApiAnswer(const ApiRequest& request, std::shared_ptr<HttpExchange> exchange, Metrics& metrics)
    : endpoint_(request.endpoint),
      model_(request.model),
      stream_(request.stream),
      include_usage_(request.include_usage),
      running_usage_(request.running_usage),
      echo_(request.echo),
      id_(new_id(request.endpoint)),
      created_(std::time(nullptr)),
      choices_(request.choices.size()),
      open_(request.choices.size()),
      exchange_(std::move(exchange)),
      metrics_(metrics) {
  // a prompt counts once, however many answers it gets
  for (size_t i = 0; i < request.choices.size(); i += static_cast<size_t>(request.n))
    prompt_tokens_ += static_cast<int64_t>(request.choices[i].prompt.size());
}

std::string ApiAnswer::usage_json() const {
  int64_t completion = 0;
  for (const Choice& choice : choices_) completion += choice.tokens;
  return dump({{"prompt_tokens", prompt_tokens_},
               {"completion_tokens", completion},
               {"total_tokens", prompt_tokens_ + completion}});
}

void ApiAnswer::start() {
  if (!stream_) return;
  exchange_->start(
      200, "text/event-stream; charset=utf-8",
      {{"Cache-Control", "no-cache"}, {"X-Accel-Buffering", "no"}, {"X-Content-Type-Options", "nosniff"}});
  for (size_t i = 0; i < choices_.size(); ++i) {
    if (endpoint_ == Endpoint::chat)
      send_chunk(i, R"("delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null)");
    else if (!echo_.empty())
      send_text(i, echo_[i]);
  }
}

void ApiAnswer::send_event(const std::string& json) {
  exchange_->write("data: " + json + "\n\n");
}

void ApiAnswer::send_chunk(size_t choice, const std::string& body) {
  std::string usage;
  if (running_usage_)
    usage = ",\"usage\":" + usage_json();
  else if (include_usage_)
    usage = ",\"usage\":null";
  send_event(
      fmt::format(R"({{"id":"{}","object":"{}","created":{},"model":{},"choices":[{{"index":{},{}}}]{}}})",
                  id_, endpoint_ == Endpoint::chat ? "chat.completion.chunk" : "text_completion", created_,
                  dump(model_), choice, body, usage));
}

void ApiAnswer::send_text(size_t choice, const std::string& text) {
  std::string quoted = dump(text);
  std::string part =
      endpoint_ == Endpoint::chat ? R"("delta":{"content":)" + quoted + "}" : R"("text":)" + quoted;
  send_chunk(choice, part + R"(,"logprobs":null,"finish_reason":null)");
}

void ApiAnswer::take(size_t index, const GenerationEvent& event) {
  if (done_) return;
  Choice& choice = choices_[index];
  choice.tokens += static_cast<int64_t>(event.tokens.size());
  if (!event.tokens.empty() && !std::exchange(spoke_, true)) metrics_.first_token(since_request_.seconds());
  if (!stream_)
    choice.text += event.text;
  else if (!event.text.empty())
    send_text(index, event.text);
  if (event.finish == FinishReason::running) return;
  if (event.finish == FinishReason::cancelled) return abort();
  choice.finish = event.finish;
  if (stream_)
    send_chunk(index, fmt::format(R"({},"logprobs":null,"finish_reason":"{}")",
                                  endpoint_ == Endpoint::chat ? R"("delta":{})" : R"("text":"")",
                                  name_of(event.finish)));
  if (--open_ == 0) finish();
}

void ApiAnswer::finish() {
  done_ = true;
  const char* endpoint = endpoint_ == Endpoint::chat ? "chat" : "completions";
  metrics_.count(endpoint, "200");
  metrics_.answered(since_request_.seconds());
  if (stream_) {
    if (include_usage_)
      send_event(fmt::format(R"({{"id":"{}","object":"{}","created":{},"model":{},"choices":[],"usage":{}}})",
                             id_, endpoint_ == Endpoint::chat ? "chat.completion.chunk" : "text_completion",
                             created_, dump(model_), usage_json()));
    exchange_->write("data: [DONE]\n\n");
    exchange_->end();
    return;
  }
  ordered_json body = {{"id", id_},
                       {"object", endpoint_ == Endpoint::chat ? "chat.completion" : "text_completion"},
                       {"created", created_},
                       {"model", model_},
                       {"choices", ordered_json::array()},
                       {"usage", ordered_json::parse(usage_json())}};
  for (size_t i = 0; i < choices_.size(); ++i) {
    ordered_json choice = {{"index", i}};
    if (endpoint_ == Endpoint::chat)
      choice["message"] = {{"role", "assistant"}, {"content", choices_[i].text}};
    else
      choice["text"] = (echo_.empty() ? "" : echo_[i]) + choices_[i].text;
    choice["logprobs"] = nullptr;
    choice["finish_reason"] = name_of(choices_[i].finish);
    body["choices"].push_back(std::move(choice));
  }
  exchange_->respond(200, "application/json", dump(body), {{"X-Content-Type-Options", "nosniff"}});
}

// Cancelled: the client has gone, and nobody reads this, or the server ends.
void ApiAnswer::abort() {
  done_ = true;
  metrics_.count(endpoint_ == Endpoint::chat ? "chat" : "completions", "cancelled");
  if (!stream_) return exchange_->respond(503, "application/json", error_json(ending()), {});
  send_event(error_json(ending()));
  exchange_->end();
}

}  // namespace llmft

// One request's answer, made from the engine's events: a JSON object at the end, or server-sent events as
// they come.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "api_request.hpp"
#include "llmft/base/clock.hpp"
#include "llmft/serve/http_server.hpp"
#include "metrics.hpp"

namespace llmft {

// After start() used by one thread at a time (the generation queue's).
class ApiAnswer {
 public:
  ApiAnswer(const ApiRequest& request, std::shared_ptr<HttpExchange> exchange, Metrics& metrics);

  // Before the first event: sends the header of a stream.
  void start();
  void take(size_t choice, const GenerationEvent& event);

 private:
  struct Choice {
    std::string text;
    int64_t tokens = 0;
    FinishReason finish = FinishReason::running;
  };
  std::string usage_json() const;
  void send_chunk(size_t choice, const std::string& body);
  void send_text(size_t choice, const std::string& text);
  void send_event(const std::string& json);
  void finish();
  void abort();

  Endpoint endpoint_;
  std::string model_;
  bool stream_;
  bool include_usage_;
  bool running_usage_;
  std::vector<std::string> echo_;
  int64_t prompt_tokens_ = 0;
  std::string id_;
  int64_t created_;
  std::vector<Choice> choices_;
  size_t open_;
  bool done_ = false;
  bool spoke_ = false;
  Stopwatch since_request_;
  std::shared_ptr<HttpExchange> exchange_;
  Metrics& metrics_;
};

}  // namespace llmft

#include "metrics.hpp"

#include <algorithm>

#include <fmt/format.h>

#include "llmft/base/text.hpp"

namespace llmft {
namespace {

std::string head(const std::string& name, const std::string& type, const std::string& help) {
  return fmt::format("# HELP {0} {1}\n# TYPE {0} {2}\n", name, help, type);
}

}  // namespace

void Histogram::add(double seconds) {
  auto bound = std::lower_bound(kBounds.begin(), kBounds.end(), seconds);
  ++counts_[static_cast<size_t>(bound - kBounds.begin())];
  sum_ += seconds;
}

std::string Histogram::text(const std::string& name, const std::string& help) const {
  std::string out = head(name, "histogram", help);
  uint64_t total = 0;
  for (size_t i = 0; i < counts_.size(); ++i) {
    total += counts_[i];
    out += fmt::format("{}_bucket{{le=\"{}\"}} {}\n", name, i < kBounds.size() ? number(kBounds[i]) : "+Inf",
                       total);
  }
  return out + fmt::format("{0}_sum {1}\n{0}_count {2}\n", name, number(sum_), total);
}

void Metrics::count(const std::string& endpoint, const std::string& result) {
  std::lock_guard lock(mutex_);
  ++requests_[{endpoint, result}];
}

void Metrics::first_token(double seconds) {
  std::lock_guard lock(mutex_);
  first_token_.add(seconds);
}

void Metrics::answered(double seconds) {
  std::lock_guard lock(mutex_);
  answered_.add(seconds);
}

std::string Metrics::text(const EngineStats& engine, const HttpStats& http) const {
  std::string out;
  auto add = [&](const std::string& name, const char* type, const char* help, auto value) {
    out += head(name, type, help) + fmt::format("{} {}\n", name, value);
  };
  add("llmft_running", "gauge", "Answers that are being generated.", engine.running);
  add("llmft_waiting", "gauge", "Requests that wait for their turn.", engine.waiting);
  add("llmft_prompt_tokens_total", "counter", "Tokens of prompts.", engine.prompt_tokens);
  add("llmft_cached_prompt_tokens_total", "counter", "Tokens of prompts taken from a shared prefix.",
      engine.cached_tokens);
  add("llmft_generated_tokens_total", "counter", "Tokens generated.", engine.generated_tokens);
  add("llmft_busy_seconds_total", "counter", "Seconds in which something was generated.",
      number(engine.busy_seconds));
  add("llmft_connections", "gauge", "Open connections.", http.open);
  add("llmft_connections_total", "counter", "Connections taken.", http.accepted);
  add("llmft_connections_refused_total", "counter", "Connections over the limit.", http.refused);
  add("llmft_malformed_requests_total", "counter", "What was no request, too large or too slow.",
      http.malformed);
  std::lock_guard lock(mutex_);
  out +=
      head("llmft_requests_total", "counter", "Requests by endpoint and result (HTTP status, or cancelled).");
  for (const auto& [labels, value] : requests_)
    out += fmt::format("llmft_requests_total{{endpoint=\"{}\",result=\"{}\"}} {}\n", labels.first,
                       labels.second, value);
  out += first_token_.text("llmft_first_token_seconds", "Seconds from a request to its first text.");
  out += answered_.text("llmft_answer_seconds", "Seconds from a request to the end of its answer.");
  return out;
}

}  // namespace llmft

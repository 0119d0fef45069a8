// Counters of the API in Prometheus' text format.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <utility>

#include "llmft/generate/engine.hpp"
#include "llmft/serve/http_server.hpp"

namespace llmft {

class Histogram {
 public:
  void add(double seconds);
  std::string text(const std::string& name, const std::string& help) const;

 private:
  static constexpr std::array kBounds = {0.01, 0.025, 0.05, 0.1,  0.25, 0.5,  1.0,
                                         2.5,  5.0,   10.0, 30.0, 60.0, 120.0};
  std::array<uint64_t, kBounds.size() + 1> counts_{};
  double sum_ = 0;
};

class Metrics {
 public:
  // endpoint: "chat", "completions"; result: an HTTP status, or "cancelled": the client left, or the server
  // ended.
  void count(const std::string& endpoint, const std::string& result);
  void first_token(double seconds);
  void answered(double seconds);
  std::string text(const EngineStats& engine, const HttpStats& http) const;

 private:
  mutable std::mutex mutex_;
  std::map<std::pair<std::string, std::string>, uint64_t> requests_;
  Histogram first_token_;
  Histogram answered_;
};

}  // namespace llmft

#include <doctest/doctest.h>

#include "access.hpp"
#include "api_error.hpp"

using namespace llmft;

namespace {

int status(const Access& access, const std::string& path, HttpHeaders headers) {
  HttpRequest request;
  request.method = "POST";
  request.path = path;
  request.headers = std::move(headers);
  try {
    access.check(request);
  } catch (const ApiError& error) {
    return error.status;
  }
  return 0;
}

}  // namespace

TEST_CASE("keys are equal when they are equal, whatever their lengths") {
  CHECK(equal_in_constant_time("secret", "secret"));
  CHECK(equal_in_constant_time("", ""));
  for (const char* wrong : {"", "s", "secre", "secrets", "Secret", "secretsecret", "secre\0"})
    CHECK_FALSE(equal_in_constant_time(wrong, "secret"));
  CHECK_FALSE(equal_in_constant_time("x", ""));
  std::string with_zero("a\0b", 3);
  CHECK(equal_in_constant_time(with_zero, with_zero));
  CHECK_FALSE(equal_in_constant_time("a", with_zero));
}

TEST_CASE("the API and the metrics want the key, the page and /health do not") {
  Access access("0.0.0.0", {}, "k");
  HttpHeaders good = {{"authorization", "Bearer k"}};
  CHECK(status(access, "/v1/models", {{"Authorization", "bearer k"}}) == 0);
  for (const char* path : {"/v1/models", "/v1/chat/completions", "/metrics"}) {
    CHECK(status(access, path, good) == 0);
    CHECK(status(access, path, {}) == 401);
    CHECK(status(access, path, {{"Authorization", "k"}}) == 401);
    CHECK(status(access, path, {{"Authorization", "Basic k"}}) == 401);
  }
  CHECK(status(access, "/", {}) == 0);
  CHECK(status(access, "/health", {}) == 0);
}

TEST_CASE("a loopback server answers to loopback names only, and to no page of another site") {
  Access access("127.0.0.1", {"llm.example"}, "");
  for (const char* host : {"localhost:7860", "localhost", "LocalHost:7860", "127.8.9.10:7860", "LLM.Example",
                           "127.0.0.1:7860", "[::1]:7860", "llm.example", "llm.example:443", ""})
    CHECK(status(access, "/v1/models", {{"Host", host}}) == 0);
  for (const char* host : {"evil.example", "localhost.evil.example", "10.0.0.1", "[fe80::1]:80",
                           "127.evil.com:7860", "127.0.0.1.evil.com:7860", "127.1"})
    CHECK(status(access, "/v1/models", {{"Host", host}}) == 403);
  CHECK(status(access, "/", {{"Host", "localhost:1"}, {"Origin", "http://localhost:1"}}) == 0);
  for (const char* origin : {"http://localhost:2", "http://evil.example", "null", "https://"})
    CHECK(status(access, "/", {{"Host", "localhost:1"}, {"Origin", origin}}) == 403);
  CHECK(status(Access("0.0.0.0", {}, ""), "/v1/models", {{"Host", "node17"}}) == 0);
}

// A small HTTP/1.1 server for few routes, many slow clients and streamed answers. One or two threads serve
// all connections; no client can hold a thread. Limits: connections, size of header and body, seconds for a
// request to arrive, seconds for the client to take what is sent, seconds a connection may idle.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace llmft {

struct HttpLimits {
  int64_t connections = 512;
  int64_t header_bytes = 16 << 10;
  int64_t body_bytes = 4 << 20;
  double request_seconds = 20;  // from a request's first byte to its last
  double write_seconds = 30;    // a piece of the answer
  double idle_seconds = 75;     // between requests
};

struct HttpRequest {
  std::string method;
  std::string path;   // without the query, as it was sent
  std::string query;  // without '?'
  std::string body;
  std::vector<std::pair<std::string, std::string>> headers;

  // "" where there is none; name in any case.
  std::string_view header(std::string_view name) const;
};

using HttpHeaders = std::vector<std::pair<std::string, std::string>>;

// One request's answer. Every function may be called from any thread, and after the client has gone, when it
// does nothing. All exchanges must be gone before their server is. Exactly one of respond() and start() ...
// end(). Destroyed before an end, it closes the connection.
class HttpExchange {
 public:
  virtual ~HttpExchange() = default;
  virtual void respond(int status, std::string_view type, std::string body, HttpHeaders headers = {}) = 0;
  virtual void start(int status, std::string_view type, HttpHeaders headers = {}) = 0;
  virtual void write(std::string data) = 0;
  virtual void end() = 0;
  // Called once, on a server's thread, if the client goes away (or the server stops) before the answer's end.
  // At once if it has gone already.
  virtual void on_gone(std::function<void()> action) = 0;
};

struct HttpStats {
  int64_t open = 0;
  int64_t accepted = 0;
  int64_t refused = 0;    // over the limit: 503
  int64_t malformed = 0;  // 400, 413, 431, 408
};

class HttpServer {
 public:
  struct Handlers {
    // On the header alone, before the body is read: the status and JSON body of a refusal, or 0.
    std::function<std::pair<int, std::string>(const HttpRequest&)> admit;
    std::function<void(HttpRequest, std::shared_ptr<HttpExchange>)> handle;
    // On SIGINT, SIGTERM or stop(), once, before connections are closed: the time to end open answers.
    std::function<void()> stopping;
    // The body of the server's own errors (bad request, too large, too busy).
    std::function<std::string(int status, std::string_view message)> error_body;
  };

  virtual ~HttpServer() = default;
  // The port that was bound: of interest where port 0 was asked for.
  virtual int port() const = 0;
  // Until SIGINT, SIGTERM or stop(). Answers that have not left two seconds later are cut off. A second
  // signal ends the process.
  virtual void run() = 0;
  virtual void stop() = 0;
  virtual HttpStats stats() const = 0;
};

// Binds at once. UserError: host cannot be resolved, port in use or not allowed.
std::unique_ptr<HttpServer> make_http_server(const std::string& host, int port, const HttpLimits& limits,
                                             HttpServer::Handlers handlers);

}  // namespace llmft

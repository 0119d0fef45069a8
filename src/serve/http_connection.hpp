// One client's connection. It lives on one strand, so its members need no lock. At any time one read is
// pending: of a request, or, while its answer is made, of the next bytes, which is how a client that goes
// away is noticed. One timer says by when the phase must be over. Only these files and http_server.cpp have
// Boost.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <utility>  // Asio 1.74 uses it and does not include it

#include <boost/asio.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http.hpp>

#include "llmft/serve/http_server.hpp"

namespace llmft {

class Connection;

constexpr int kHttpThreads = 2;

// What connections share with their server.
struct HttpShared {
  boost::asio::io_context io{kHttpThreads};
  HttpLimits limits;
  HttpServer::Handlers handlers;
  std::atomic<bool> stopping = false;
  std::atomic<int64_t> open = 0;
  std::atomic<int64_t> accepted = 0;
  std::atomic<int64_t> refused = 0;
  std::atomic<int64_t> malformed = 0;
  std::mutex mutex;
  std::set<Connection*> connections;  // a connection takes itself out before it is destroyed
};

// All but post() and enroll() on the connection's strand.
class Connection : public std::enable_shared_from_this<Connection> {
 public:
  Connection(std::shared_ptr<HttpShared> shared, boost::asio::ip::tcp::socket socket);
  ~Connection();
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  void enroll();  // not in the constructor, where nobody can share it yet
  template <class Action>
  void post(Action action) {
    boost::asio::post(socket_.get_executor(), [self = shared_from_this(), action] { action(*self); });
  }

  void serve();
  void refuse();     // 503 without looking at what is asked
  void wind_down();  // an idle connection closes at once, one with an answer after it
  void close();

  // The exchange's side; `exchange` tells a late call of an earlier one. No length: chunks until finish().
  void begin(uint64_t exchange, int status, std::string_view type, const HttpHeaders& headers,
             std::optional<size_t> length);
  void send(uint64_t exchange, std::string_view data);
  void finish(uint64_t exchange);
  void abandon(uint64_t exchange);
  void when_gone(uint64_t exchange, std::function<void()> action);

 private:
  using error_code = boost::system::error_code;

  void phase(double seconds);
  void late();
  void wait_for_bytes();
  void read_request();
  void read_body();
  void bad_request(error_code ec);
  void handle();
  HttpRequest request_of_parser() const;
  // An answer to a request that was not read to its end: the connection closes after it.
  void fail(int status, std::string_view message);
  void fail_with(int status, const std::string& body);
  void write_pending();
  void write_on(size_t written);
  bool taken_meanwhile();
  void answer_left();
  void linger();

  std::shared_ptr<HttpShared> shared_;
  boost::asio::ip::tcp::socket socket_;
  boost::asio::steady_timer timer_;
  boost::beast::flat_buffer buffer_;
  std::optional<boost::beast::http::request_parser<boost::beast::http::string_body>> parser_;
  std::string pending_;
  std::string writing_;
  std::function<void()> on_gone_;
  uint64_t exchange_ = 0;
  size_t lingered_ = 0;
  int queued_ = 0;        // bytes that the kernel held at the last look
  bool reading_ = false;  // of wait_for_bytes
  bool writing_now_ = false;
  bool answering_ = false;  // from the request's end to the answer's
  bool ended_ = false;      // all of the answer is in pending_ or gone
  bool chunked_ = false;
  bool head_ = false;  // the client wants no body
  bool keep_alive_ = true;
  bool linger_ = false;
  bool closed_ = false;
};

}  // namespace llmft

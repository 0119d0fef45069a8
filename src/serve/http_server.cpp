// The only file with Boost. A connection lives on one strand, so its members need no lock. At any time one
// read is pending: of a request, or, while its answer is made, of the next bytes, which is how a client that
// goes away is noticed. One timer says by when the phase must be over.
#include "llmft/serve/http_server.hpp"

#include <atomic>
#include <csignal>
#include <cstdlib>
#include <mutex>
#include <optional>
#include <set>
#include <thread>

#include <boost/asio.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http.hpp>
#include <sys/resource.h>
#include <unistd.h>

#include "llmft/base/error.hpp"
#include "llmft/base/log.hpp"

namespace llmft {
namespace {

namespace asio = boost::asio;
namespace http = boost::beast::http;
using asio::ip::tcp;
using boost::system::error_code;

constexpr double kLingerSeconds = 2;  // for the client to read an answer given before its request was read
constexpr double kDrainSeconds = 2;   // for answers to leave when the server ends
constexpr size_t kReadAhead = 4096;   // bytes of a next request that are taken while an answer is made
constexpr size_t kLingerBytes = 64 << 20;
constexpr int kThreads = 2;

std::chrono::microseconds duration(double seconds) {
  return std::chrono::microseconds(static_cast<int64_t>(seconds * 1e6));
}

class Connection;

struct Shared {
  asio::io_context io{kThreads};
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

class Connection : public std::enable_shared_from_this<Connection> {
 public:
  Connection(std::shared_ptr<Shared> shared, tcp::socket socket)
      : shared_(std::move(shared)), socket_(std::move(socket)), timer_(socket_.get_executor()) {
    ++shared_->open;
  }
  ~Connection() {
    std::lock_guard lock(shared_->mutex);
    shared_->connections.erase(this);
  }
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  void enroll() {  // not in the constructor, where nobody can share it yet
    std::lock_guard lock(shared_->mutex);
    shared_->connections.insert(this);
  }
  template <class Action>
  void post(Action action) {
    asio::post(socket_.get_executor(), [self = shared_from_this(), action] { action(*self); });
  }

  void serve() {
    error_code ignored;
    socket_.set_option(tcp::no_delay(true), ignored);
    phase(shared_->limits.idle_seconds);
    wait_for_bytes();
  }
  // 503 without looking at what is asked.
  void refuse() {
    ++shared_->refused;
    answering_ = true;
    fail(503, "the server has as many connections as it takes; try again later");
  }
  // idle connections close at once, those with an answer after it
  void wind_down() {
    keep_alive_ = false;
    if (!answering_) close();
  }
  void close() {
    if (closed_) return;
    closed_ = true;
    --shared_->open;
    timer_.cancel();
    error_code ignored;
    socket_.close(ignored);
    if (auto action = std::exchange(on_gone_, nullptr)) action();
  }

  // The exchange's side; `exchange` tells a late call of an earlier one.
  uint64_t exchange() const { return exchange_; }
  void begin(uint64_t exchange, int status, std::string_view type, const HttpHeaders& headers,
             std::optional<size_t> length);
  void send(uint64_t exchange, std::string_view data);
  void finish(uint64_t exchange);
  void abandon(uint64_t exchange) {
    if (exchange == exchange_ && answering_ && !ended_) close();
  }
  void when_gone(uint64_t exchange, std::function<void()> action) {
    if (exchange != exchange_ || closed_)
      action();
    else if (!ended_)
      on_gone_ = std::move(action);
  }

 private:
  void phase(double seconds) {
    if (closed_) return;
    timer_.expires_after(duration(seconds));
    timer_.async_wait([self = shared_from_this()](error_code ec) {
      if (!ec) self->late();
    });
  }
  void late() {
    if (closed_ || timer_.expiry() > asio::steady_timer::clock_type::now()) return;  // set anew meanwhile
    if (!parser_ || answering_) return close();
    ++shared_->malformed;
    answering_ = true;
    ++exchange_;
    socket_.cancel();
    fail(408, fmt::format("the request did not arrive within {} seconds", shared_->limits.request_seconds));
  }

  void wait_for_bytes() {
    reading_ = true;
    socket_.async_read_some(buffer_.prepare(kReadAhead),
                            [self = shared_from_this()](error_code ec, size_t n) {
                              self->reading_ = false;
                              if (ec) return self->close();
                              self->buffer_.commit(n);
                              if (!self->answering_) self->read_request();
                            });
  }

  void read_request() {
    parser_.emplace();
    parser_->header_limit(static_cast<uint32_t>(shared_->limits.header_bytes));
    parser_->body_limit(static_cast<uint64_t>(shared_->limits.body_bytes));
    phase(shared_->limits.request_seconds);
    http::async_read_header(socket_, buffer_, *parser_, [self = shared_from_this()](error_code ec, size_t) {
      if (ec) return self->bad_request(ec);
      self->read_body();
    });
  }
  void read_body();
  void bad_request(error_code ec);
  void handle();
  HttpRequest request_of_parser();

  // An answer to a request that was not read to its end: the connection closes after it.
  void fail(int status, std::string_view message) {
    fail_with(status, shared_->handlers.error_body(status, message));
  }
  void fail_with(int status, const std::string& body) {
    keep_alive_ = false;
    linger_ = true;
    ended_ = false;
    begin(exchange_, status, "application/json", {}, body.size());
    send(exchange_, body);
    finish(exchange_);
  }

  void write_pending() {
    if (writing_now_ || pending_.empty() || closed_) return;
    writing_now_ = true;
    writing_.swap(pending_);
    pending_.clear();
    phase(shared_->limits.write_seconds);
    asio::async_write(socket_, asio::buffer(writing_), [self = shared_from_this()](error_code ec, size_t) {
      self->writing_now_ = false;
      if (ec) return self->close();
      self->timer_.cancel();
      if (!self->pending_.empty()) return self->write_pending();
      if (self->ended_) self->answer_left();
    });
  }
  void answer_left();
  void linger();

  std::shared_ptr<Shared> shared_;
  tcp::socket socket_;
  asio::steady_timer timer_;
  boost::beast::flat_buffer buffer_;
  std::optional<http::request_parser<http::string_body>> parser_;
  std::string pending_;
  std::string writing_;
  std::function<void()> on_gone_;
  uint64_t exchange_ = 0;
  size_t lingered_ = 0;
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

class Exchange : public HttpExchange {
 public:
  Exchange(std::shared_ptr<Connection> connection, uint64_t number)
      : connection_(std::move(connection)), number_(number) {}
  ~Exchange() override {
    connection_->post([n = number_](Connection& c) { c.abandon(n); });
  }
  Exchange(const Exchange&) = delete;
  Exchange& operator=(const Exchange&) = delete;

  void respond(int status, std::string_view type, std::string body, HttpHeaders headers) override {
    connection_->post([n = number_, status, t = std::string(type), b = std::move(body),
                       h = std::move(headers)](Connection& c) {
      c.begin(n, status, t, h, b.size());
      c.send(n, b);
      c.finish(n);
    });
  }
  void start(int status, std::string_view type, HttpHeaders headers) override {
    connection_->post([n = number_, status, t = std::string(type), h = std::move(headers)](Connection& c) {
      c.begin(n, status, t, h, std::nullopt);
    });
  }
  void write(std::string data) override {
    connection_->post([n = number_, d = std::move(data)](Connection& c) { c.send(n, d); });
  }
  void end() override {
    connection_->post([n = number_](Connection& c) { c.finish(n); });
  }
  void on_gone(std::function<void()> action) override {
    connection_->post([n = number_, a = std::move(action)](Connection& c) { c.when_gone(n, a); });
  }

 private:
  std::shared_ptr<Connection> connection_;
  uint64_t number_;
};

HttpRequest Connection::request_of_parser() {
  const auto& message = parser_->get();
  HttpRequest request;
  request.method = std::string(message.method_string());
  std::string target(message.target());
  size_t question = target.find('?');
  request.path = target.substr(0, question);
  if (question != std::string::npos) request.query = target.substr(question + 1);
  for (const auto& field : message)
    request.headers.emplace_back(std::string(field.name_string()), std::string(field.value()));
  return request;
}

void Connection::bad_request(error_code ec) {
  if (closed_ || answering_) return;
  if (ec == http::error::end_of_stream || ec == http::error::partial_message ||
      ec.category() != make_error_code(http::error::end_of_stream).category())
    return close();  // the client or the network; nobody to tell
  ++shared_->malformed;
  answering_ = true;
  ++exchange_;
  if (ec == http::error::body_limit)
    fail(413, fmt::format("the request's body is larger than {} bytes", shared_->limits.body_bytes));
  else if (ec == http::error::header_limit)
    fail(431, fmt::format("the request's header is larger than {} bytes", shared_->limits.header_bytes));
  else
    fail(400, fmt::format("not an HTTP request: {}", ec.message()));
}

void Connection::read_body() {
  if (closed_ || answering_) return;
  const auto& message = parser_->get();
  head_ = message.method() == http::verb::head;
  keep_alive_ = parser_->keep_alive() && !shared_->stopping;
  auto [status, body] = shared_->handlers.admit(request_of_parser());
  if (status != 0) {
    answering_ = true;
    ++exchange_;
    return fail_with(status, body);
  }
  bool expects = boost::beast::iequals(message[http::field::expect], "100-continue");
  auto read = [self = shared_from_this()] {
    http::async_read(self->socket_, self->buffer_, *self->parser_, [self](error_code ec, size_t) {
      if (ec) return self->bad_request(ec);
      self->handle();
    });
  };
  if (!expects || parser_->is_done()) return read();
  static const std::string kContinue = "HTTP/1.1 100 Continue\r\n\r\n";
  asio::async_write(socket_, asio::buffer(kContinue),
                    [self = shared_from_this(), read](error_code ec, size_t) {
                      if (ec) return self->close();
                      if (!self->closed_ && !self->answering_) read();
                    });
}

void Connection::handle() {
  if (closed_ || answering_) return;
  timer_.cancel();
  answering_ = true;
  ended_ = false;
  ++exchange_;
  HttpRequest request = request_of_parser();
  request.body = std::move(parser_->get().body());
  if (buffer_.size() == 0) wait_for_bytes();
  auto exchange = std::make_shared<Exchange>(shared_from_this(), exchange_);
  try {
    shared_->handlers.handle(std::move(request), exchange);
  } catch (const std::exception& e) {
    log::warn("serve: {}", e.what());
    exchange->respond(500, "application/json",
                      shared_->handlers.error_body(500, "internal error; the server's log has it"), {});
  }
}

void Connection::begin(uint64_t exchange, int status, std::string_view type, const HttpHeaders& headers,
                       std::optional<size_t> length) {
  if (exchange != exchange_ || closed_ || ended_) return;
  bool old = parser_ && parser_->get().version() < 11;
  chunked_ = !length && !old;
  if (!length && old) keep_alive_ = false;
  if (shared_->stopping) keep_alive_ = false;
  pending_ +=
      fmt::format("HTTP/1.1 {} {}\r\nContent-Type: {}\r\nConnection: {}\r\n", status,
                  std::string(http::obsolete_reason(http::int_to_status(static_cast<unsigned>(status)))),
                  type, keep_alive_ ? "keep-alive" : "close");
  if (length) pending_ += fmt::format("Content-Length: {}\r\n", *length);
  if (chunked_) pending_ += "Transfer-Encoding: chunked\r\n";
  for (const auto& [name, value] : headers) pending_ += fmt::format("{}: {}\r\n", name, value);
  pending_ += "\r\n";
  write_pending();
}

void Connection::send(uint64_t exchange, std::string_view data) {
  if (exchange != exchange_ || closed_ || ended_ || head_ || data.empty()) return;
  if (chunked_) pending_ += fmt::format("{:x}\r\n", data.size());
  pending_ += data;
  if (chunked_) pending_ += "\r\n";
  write_pending();
}

void Connection::finish(uint64_t exchange) {
  if (exchange != exchange_ || closed_ || ended_) return;
  if (chunked_ && !head_) pending_ += "0\r\n\r\n";
  chunked_ = false;
  ended_ = true;
  on_gone_ = nullptr;
  write_pending();
  if (!writing_now_) answer_left();
}

void Connection::answer_left() {
  parser_.reset();
  if (linger_) return linger();
  if (!keep_alive_) {
    error_code ignored;
    socket_.shutdown(tcp::socket::shutdown_both, ignored);
    return close();
  }
  answering_ = false;
  head_ = false;
  if (buffer_.size() > 0) return read_request();  // it came while the answer was made; no read is pending
  phase(shared_->limits.idle_seconds);
  if (!reading_) wait_for_bytes();
}

// Closing a socket that holds unread bytes resets it, and the client may lose the answer: what it still sends
// is taken and dropped for a while.
void Connection::linger() {
  if (lingered_ == 0) {
    error_code ignored;
    socket_.shutdown(tcp::socket::shutdown_send, ignored);
    phase(kLingerSeconds);
  }
  buffer_.clear();
  socket_.async_read_some(buffer_.prepare(64 << 10), [self = shared_from_this()](error_code ec, size_t n) {
    self->lingered_ += n + 1;
    if (ec || self->lingered_ > kLingerBytes) return self->close();
    self->linger();
  });
}

class Server : public HttpServer {
 public:
  Server(const std::string& host, int port, const HttpLimits& limits, Handlers handlers)
      : shared_(std::make_shared<Shared>()),
        acceptor_(asio::make_strand(shared_->io)),
        signals_(acceptor_.get_executor()),
        pause_(acceptor_.get_executor()) {
    shared_->limits = limits;
    shared_->handlers = std::move(handlers);
    bind(host, port);
    raise_file_limit(2 * limits.connections + 256);
  }
  ~Server() override {
    // what is still posted holds connections, and these the io_context
    stop();
    shared_->io.restart();
    shared_->io.run_for(std::chrono::seconds(1));
  }
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  int port() const override { return port_; }
  HttpStats stats() const override {
    return {shared_->open, shared_->accepted, shared_->refused, shared_->malformed};
  }
  void stop() override {
    asio::post(acceptor_.get_executor(), [this] { wind_down(); });
  }
  void run() override {
    signals_.add(SIGINT);
    signals_.add(SIGTERM);
    wait_for_signal();
    accept();
    std::vector<std::thread> threads;
    for (int i = 1; i < kThreads; ++i) threads.emplace_back([this] { shared_->io.run(); });
    shared_->io.run();
    for (std::thread& thread : threads) thread.join();
  }

 private:
  void bind(const std::string& host, int port) {
    error_code ec;
    tcp::resolver resolver(shared_->io);
    auto found = resolver.resolve(host, std::to_string(port),
                                  tcp::resolver::passive | tcp::resolver::numeric_service, ec);
    if (ec || found.empty())
      user_error("--host {}: cannot be resolved ({}); give an address of this machine, 127.0.0.1 or 0.0.0.0",
                 host, ec.message());
    tcp::endpoint endpoint = *found.begin();
    auto must = [&](const char* what) {
      if (!ec) return;
      std::string where = fmt::format("--host {} --port {}", host, port);
      if (ec == asio::error::address_in_use)
        user_error(
            "{}: the port is in use (another server runs there?); choose another with --port, 0 takes any "
            "free one",
            where);
      user_error("{}: cannot {} ({}); choose another --port or --host", where, what, ec.message());
    };
    acceptor_.open(endpoint.protocol(), ec);
    must("open a socket");
    acceptor_.set_option(tcp::acceptor::reuse_address(true), ec);
    acceptor_.bind(endpoint, ec);
    must("listen there");
    acceptor_.listen(1024, ec);
    must("listen there");
    port_ = acceptor_.local_endpoint().port();
  }
  static void raise_file_limit(int64_t files) {
    rlimit limit{};
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur >= static_cast<rlim_t>(files)) return;
    limit.rlim_cur = std::min(limit.rlim_max, static_cast<rlim_t>(files));
    setrlimit(RLIMIT_NOFILE, &limit);
  }
  void accept() {
    acceptor_.async_accept(asio::make_strand(shared_->io), [this](error_code ec, tcp::socket socket) {
      if (!acceptor_.is_open()) return;
      if (ec) {  // out of file descriptors, mostly: leave the others time to close theirs
        pause_.expires_after(std::chrono::milliseconds(100));
        pause_.async_wait([this](error_code stopped) {
          if (!stopped) accept();
        });
        return;
      }
      ++shared_->accepted;
      int64_t open = shared_->open;
      if (open < 2 * shared_->limits.connections) {
        bool room = open < shared_->limits.connections;
        auto connection = std::make_shared<Connection>(shared_, std::move(socket));
        connection->enroll();
        connection->post([room](Connection& c) { room ? c.serve() : c.refuse(); });
      } else {
        ++shared_->refused;
      }
      accept();
    });
  }
  void wait_for_signal() {
    signals_.async_wait([this](error_code ec, int) {
      if (ec) return;
      if (shared_->stopping) ::_exit(130);  // asked twice: at once
      wait_for_signal();
      wind_down();
    });
  }
  void each_connection(void (Connection::*action)()) {
    std::vector<std::shared_ptr<Connection>> alive;  // the last owner must not let go under the lock
    {
      std::lock_guard lock(shared_->mutex);
      for (Connection* connection : shared_->connections)
        alive.push_back(connection->weak_from_this().lock());
    }
    for (auto& connection : alive)
      if (connection) connection->post([action](Connection& c) { (c.*action)(); });
  }
  void wind_down() {
    if (shared_->stopping.exchange(true)) return;
    error_code ignored;
    acceptor_.close(ignored);
    pause_.cancel();
    if (shared_->handlers.stopping) shared_->handlers.stopping();
    each_connection(&Connection::wind_down);
    watch_drain(0);
  }
  // until all answers have left, or for as long as they may take
  void watch_drain(double waited) {
    if (shared_->open == 0 || waited >= kDrainSeconds) {
      each_connection(&Connection::close);
      signals_.cancel();
      return;
    }
    pause_.expires_after(std::chrono::milliseconds(20));
    pause_.async_wait([this, waited](error_code) { watch_drain(waited + 0.02); });
  }

  std::shared_ptr<Shared> shared_;
  tcp::acceptor acceptor_;
  asio::signal_set signals_;
  asio::steady_timer pause_;
  int port_ = 0;
};

}  // namespace

std::string_view HttpRequest::header(std::string_view name) const {
  for (const auto& [key, value] : headers)
    if (boost::beast::iequals(boost::string_view(key.data(), key.size()),
                              boost::string_view(name.data(), name.size())))
      return value;
  return "";
}

std::unique_ptr<HttpServer> make_http_server(const std::string& host, int port, const HttpLimits& limits,
                                             HttpServer::Handlers handlers) {
  return std::make_unique<Server>(host, port, limits, std::move(handlers));
}

}  // namespace llmft

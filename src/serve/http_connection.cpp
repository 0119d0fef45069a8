#include "http_connection.hpp"

#include <limits>
#include <utility>

#include <linux/sockios.h>
#include <sys/ioctl.h>

#include "llmft/base/log.hpp"

namespace llmft {
namespace {

namespace asio = boost::asio;
namespace http = boost::beast::http;
using asio::ip::tcp;

constexpr double kLingerSeconds = 2;  // for the client to read an answer given before its request was read
constexpr size_t kReadAhead = 4096;   // bytes of a next request that are taken while an answer is made
constexpr size_t kLingerBytes = 64 << 20;

std::chrono::microseconds duration(double seconds) {
  return std::chrono::microseconds(static_cast<int64_t>(seconds * 1e6));
}

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

}  // namespace

Connection::Connection(std::shared_ptr<HttpShared> shared, tcp::socket socket)
    : shared_(std::move(shared)), socket_(std::move(socket)), timer_(socket_.get_executor()) {
  ++shared_->open;
}

Connection::~Connection() {
  std::lock_guard lock(shared_->mutex);
  shared_->connections.erase(this);
}

void Connection::enroll() {
  std::lock_guard lock(shared_->mutex);
  shared_->connections.insert(this);
}

void Connection::serve() {
  error_code ignored;
  socket_.set_option(tcp::no_delay(true), ignored);
  phase(shared_->limits.idle_seconds);
  wait_for_bytes();
}

void Connection::refuse() {
  ++shared_->refused;
  answering_ = true;
  fail(503, "the server has as many connections as it takes; try again later");
}

void Connection::wind_down() {
  keep_alive_ = false;
  if (!answering_) close();
}

void Connection::close() {
  if (closed_) return;
  closed_ = true;
  --shared_->open;
  timer_.cancel();
  error_code ignored;
  socket_.close(ignored);
  if (auto action = std::exchange(on_gone_, nullptr)) action();
}

void Connection::abandon(uint64_t exchange) {
  if (exchange == exchange_ && answering_ && !ended_) close();
}

void Connection::when_gone(uint64_t exchange, std::function<void()> action) {
  if (exchange != exchange_ || closed_)
    action();
  else if (!ended_)
    on_gone_ = std::move(action);
}

void Connection::phase(double seconds) {
  if (closed_) return;
  timer_.expires_after(duration(seconds));
  timer_.async_wait([self = shared_from_this()](error_code ec) {
    if (!ec) self->late();
  });
}

void Connection::late() {
  if (closed_ || timer_.expiry() > asio::steady_timer::clock_type::now()) return;  // set anew meanwhile
  if (writing_now_ && taken_meanwhile()) return phase(shared_->limits.write_seconds);
  if (!parser_ || answering_) return close();
  ++shared_->malformed;
  answering_ = true;
  ++exchange_;
  socket_.cancel();
  fail(408, fmt::format("the request did not arrive within {} seconds", shared_->limits.request_seconds));
}

void Connection::wait_for_bytes() {
  reading_ = true;
  socket_.async_read_some(buffer_.prepare(kReadAhead), [self = shared_from_this()](error_code ec, size_t n) {
    self->reading_ = false;
    // what came while an answer was made is the next request
    if (ec == asio::error::operation_aborted && !self->closed_ && !self->answering_ &&
        self->buffer_.size() > 0)
      return self->read_request();
    if (ec) return self->close();
    self->buffer_.commit(n);
    if (!self->answering_)
      self->read_request();
    else if (self->buffer_.size() < kReadAhead)
      self->wait_for_bytes();  // a client that goes away shows here alone
  });
}

void Connection::read_request() {
  parser_.emplace();
  parser_->header_limit(static_cast<uint32_t>(shared_->limits.header_bytes));
  parser_->body_limit(static_cast<uint64_t>(shared_->limits.body_bytes));
  phase(shared_->limits.request_seconds);
  http::async_read_header(socket_, buffer_, *parser_, [self = shared_from_this()](error_code ec, size_t) {
    if (ec) return self->bad_request(ec);
    self->read_body();
  });
}

HttpRequest Connection::request_of_parser() const {
  const auto& message = parser_->get();
  HttpRequest request;
  request.method = std::string(message.method_string());
  std::string target(message.target());
  constexpr std::string_view kScheme = "http://";
  if (target.starts_with(kScheme)) {  // absolute form, as to a proxy (RFC 9112, 3.2.2: servers must take it)
    size_t path = target.find('/', kScheme.size());
    target = path == std::string::npos ? "/" : target.substr(path);
  }
  size_t question = target.find('?');
  request.path = target.substr(0, question);
  if (question != std::string::npos) request.query = target.substr(question + 1);
  for (const auto& field : message)
    request.headers.emplace_back(std::string(field.name_string()), std::string(field.value()));
  return request;
}

void Connection::bad_request(error_code ec) {
  if (closed_ || answering_) return;
  bool malformed = ec.category() == make_error_code(http::error::end_of_stream).category() &&
                   ec != http::error::end_of_stream && ec != http::error::partial_message;
  if (!malformed) return close();  // the client or the network; nobody to tell
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
  if (buffer_.size() < kReadAhead) wait_for_bytes();
  auto exchange = std::make_shared<Exchange>(shared_from_this(), exchange_);
  try {
    shared_->handlers.handle(std::move(request), exchange);
  } catch (const std::exception& e) {
    log::warn("serve: {}", e.what());
    exchange->respond(500, "application/json",
                      shared_->handlers.error_body(500, "internal error; the server's log has it"), {});
  }
}

void Connection::fail(int status, std::string_view message) {
  fail_with(status, shared_->handlers.error_body(status, message));
}

void Connection::fail_with(int status, const std::string& body) {
  keep_alive_ = false;
  linger_ = true;
  ended_ = false;
  HttpHeaders headers;
  if (status == 401) headers.emplace_back("WWW-Authenticate", "Bearer");
  begin(exchange_, status, "application/json", headers, body.size());
  send(exchange_, body);
  finish(exchange_);
}

void Connection::write_pending() {
  if (writing_now_ || pending_.empty() || closed_) return;
  writing_now_ = true;
  writing_.swap(pending_);
  pending_.clear();
  write_on(0);
}

// Of what the kernel holds for the client: a write goes on only when a good part of it has gone, for a slow
// reader long after.
bool Connection::taken_meanwhile() {
  int queued = 0;
  if (::ioctl(socket_.native_handle(), SIOCOUTQ, &queued) != 0) return false;
  return queued < std::exchange(queued_, queued);
}

// The clock starts anew with all that the client takes.
void Connection::write_on(size_t written) {
  phase(shared_->limits.write_seconds);
  queued_ = std::numeric_limits<int>::max();  // this write adds to it
  auto rest = asio::buffer(writing_) + written;
  socket_.async_write_some(rest, [self = shared_from_this(), written](error_code ec, size_t n) {
    if (!ec && written + n < self->writing_.size() && !self->closed_) return self->write_on(written + n);
    self->writing_now_ = false;
    if (ec) return self->close();
    self->timer_.cancel();
    if (!self->pending_.empty()) return self->write_pending();
    if (self->ended_) self->answer_left();
  });
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
  if (buffer_.size() > 0 && reading_) {
    error_code ignored;
    socket_.cancel(ignored);
    return;
  }
  if (buffer_.size() > 0) return read_request();
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

}  // namespace llmft

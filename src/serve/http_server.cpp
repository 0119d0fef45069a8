// Accepts connections, and ends them all when the server does.
#include "llmft/serve/http_server.hpp"

#include <algorithm>
#include <csignal>
#include <thread>
#include <utility>

#include <sys/resource.h>
#include <unistd.h>

#include "ascii_case.hpp"
#include "http_connection.hpp"
#include "llmft/base/error.hpp"

namespace llmft {
namespace {

namespace asio = boost::asio;
using asio::ip::tcp;
using boost::system::error_code;

constexpr double kDrainSeconds = 2;  // for answers to leave when the server ends

class Server : public HttpServer {
 public:
  Server(const std::string& host, int port, const HttpLimits& limits, Handlers handlers)
      : shared_(std::make_shared<HttpShared>()),
        acceptor_(asio::make_strand(shared_->io)),
        signals_(asio::make_strand(shared_->io)),
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
    for (int i = 1; i < kHttpThreads; ++i) threads.emplace_back([this] { shared_->io.run(); });
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
      if (shared_->stopping || std::exchange(asked_, true)) ::_exit(130);  // twice: at once
      wait_for_signal();
      stop();
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
      asio::post(signals_.get_executor(), [this] { signals_.cancel(); });
      return;
    }
    pause_.expires_after(std::chrono::milliseconds(20));
    pause_.async_wait([this, waited](error_code) { watch_drain(waited + 0.02); });
  }

  std::shared_ptr<HttpShared> shared_;
  tcp::acceptor acceptor_;
  asio::signal_set signals_;  // apart from the acceptor, which waits for a step of the model to end
  bool asked_ = false;
  asio::steady_timer pause_;
  int port_ = 0;
};

}  // namespace

std::string_view HttpRequest::header(std::string_view name) const {
  for (const auto& [key, value] : headers)
    if (equal_ignoring_case(key, name)) return value;
  return "";
}

std::unique_ptr<HttpServer> make_http_server(const std::string& host, int port, const HttpLimits& limits,
                                             HttpServer::Handlers handlers) {
  return std::make_unique<Server>(host, port, limits, std::move(handlers));
}

}  // namespace llmft

// Order of lives: the queue's sinks hold exchanges, exchanges hold connections, so the queue is stopped
// before the HTTP server goes, and outlives it, since a connection that closes cancels its requests.
#include "llmft/serve/service.hpp"

#include <algorithm>
#include <charconv>
#include <ctime>
#include <filesystem>

#include <nlohmann/json.hpp>

#include "access.hpp"
#include "api_answer.hpp"
#include "api_error.hpp"
#include "llmft/base/error.hpp"
#include "llmft/base/log.hpp"
#include "llmft/serve/generation_queue.hpp"
#include "page_files.hpp"

namespace llmft {
namespace {

using nlohmann::ordered_json;

constexpr const char* kJson = "application/json";
// Nothing but the page's own files, no inline script or style, no frame around it.
constexpr const char* kContentSecurityPolicy =
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; base-uri "
    "'none'; "
    "form-action 'none'; frame-ancestors 'none'";

HttpHeaders page_headers() {
  return {{"Content-Security-Policy", kContentSecurityPolicy},
          {"X-Content-Type-Options", "nosniff"},
          {"X-Frame-Options", "DENY"},
          {"Referrer-Policy", "no-referrer"},
          {"Cross-Origin-Opener-Policy", "same-origin"},
          {"Cache-Control", "no-cache"}};
}

// %20 and the like; what is no such code stays as it is.
std::string percent_decoded(std::string_view text) {
  std::string decoded;
  for (size_t i = 0; i < text.size(); ++i) {
    unsigned value = 0;
    const char* code = text.data() + i + 1;
    if (text[i] == '%' && i + 2 < text.size() && std::from_chars(code, code + 2, value, 16).ptr == code + 2) {
      decoded += static_cast<char>(value);
      i += 2;
    } else {
      decoded += text[i];
    }
  }
  return decoded;
}

HttpLimits limits_of(const ServeOptions& options) {
  HttpLimits limits;
  limits.connections = options.connections;
  limits.body_bytes = options.body_bytes;
  limits.request_seconds = options.request_seconds;
  limits.write_seconds = options.write_seconds;
  limits.idle_seconds = options.idle_seconds;
  return limits;
}

std::vector<ServedModel> models_of(const ModelNames& names) {
  std::vector<ServedModel> models = {{names.base, AnswerWeights::base}};
  if (!names.adapted.empty()) models.push_back({names.adapted, AnswerWeights::adapted});
  return models;
}

class Service : public ChatService {
 public:
  Service(Engine& engine, const Tokenizer& tokenizer, TemplateKind chat_template, const ModelNames& names,
          const ServeOptions& options)
      : context_{tokenizer,          chat_template,
                 models_of(names),   engine.max_context(),
                 options.max_tokens, engine.max_sequences() + options.queue},
        access_(options.host, options.allowed_hosts, options.api_key),
        started_(std::time(nullptr)),
        queue_(engine, options.queue, [this] { stop(); }),
        http_(
            make_http_server(options.host, static_cast<int>(options.port), limits_of(options), handlers())) {}
  ~Service() override { queue_.stop(); }
  Service(const Service&) = delete;
  Service& operator=(const Service&) = delete;

  int port() const override { return http_->port(); }
  void stop() override { http_->stop(); }
  void run() override {
    http_->run();
    queue_.stop();
    if (auto failure = queue_.failure()) std::rethrow_exception(failure);
  }

 private:
  HttpServer::Handlers handlers() {
    HttpServer::Handlers handlers;
    handlers.admit = [this](const HttpRequest& request) -> std::pair<int, std::string> {
      try {
        access_.check(request);
      } catch (const ApiError& error) {
        return {error.status, error_json(error)};
      }
      return {0, ""};
    };
    handlers.handle = [this](HttpRequest request, std::shared_ptr<HttpExchange> exchange) {
      try {
        route(request, exchange);
      } catch (const ApiError& error) {
        HttpHeaders headers = {{"X-Content-Type-Options", "nosniff"}};
        if (error.status == 429 || error.status == 503) headers.emplace_back("Retry-After", "1");
        if (error.status == 405)
          headers.emplace_back("Allow", request.path.ends_with("completions") ? "POST" : "GET, HEAD");
        exchange->respond(error.status, kJson, error_json(error), std::move(headers));
      }
    };
    handlers.stopping = [this] { queue_.stop(); };
    handlers.error_body = [](int status, std::string_view message) {
      return error_json(ApiError(status, std::string(message)));
    };
    return handlers;
  }

  void route(const HttpRequest& request, const std::shared_ptr<HttpExchange>& exchange) {
    const std::string& path = request.path;
    auto only = [&](std::string_view method) {
      if (request.method == method || (method == "GET" && request.method == "HEAD")) return;
      throw ApiError(405, fmt::format("{} {}: this takes {} only", request.method, path, method), "",
                     "method_not_allowed");
    };
    if (path == "/v1/chat/completions" || path == "/v1/completions") {
      only("POST");
      return complete(path == "/v1/completions" ? Endpoint::completions : Endpoint::chat, request, exchange);
    }
    if (path == "/v1/models" || path.starts_with("/v1/models/")) {
      only("GET");
      return exchange->respond(
          200, kJson,
          path == "/v1/models" ? model_list().dump() : model(percent_decoded(path.substr(11))).dump());
    }
    if (path == "/health") {
      only("GET");
      return exchange->respond(200, kJson, health());
    }
    if (path == "/metrics") {
      only("GET");
      return exchange->respond(200, "text/plain; version=0.0.4; charset=utf-8",
                               metrics_.text(queue_.engine().stats(), http_->stats()));
    }
    std::string_view name = path == "/" ? "index.html" : std::string_view(path).substr(1);
    if (name == "favicon.ico") name = "icon.svg";  // asked for beside answers that are no page
    for (const PageFile& file : page_files())
      if (file.name == name) {
        only("GET");
        return exchange->respond(200, file.type, std::string(file.content), page_headers());
      }
    throw ApiError(404,
                   fmt::format("{}: there is nothing here; the API is under /v1/, the chat page at /", path),
                   "", "not_found");
  }

  void complete(Endpoint endpoint, const HttpRequest& http, const std::shared_ptr<HttpExchange>& exchange) {
    const char* name = endpoint == Endpoint::chat ? "chat" : "completions";
    try {
      ApiRequest request = parse_api_request(endpoint, http.body, context_);
      auto answer = std::make_shared<ApiAnswer>(request, exchange, metrics_);
      std::vector<GenerationQueue::Job> jobs;
      for (size_t i = 0; i < request.choices.size(); ++i)
        jobs.push_back({std::move(request.choices[i]),
                        [answer, i](const GenerationEvent& event) { answer->take(i, event); }});
      // the stream's header must be sent before its first event, and only if the queue has room
      std::vector<uint64_t> numbers = queue_.submit(std::move(jobs), [&] { answer->start(); });
      exchange->on_gone([this, numbers] {
        for (uint64_t number : numbers) queue_.cancel(number);
      });
    } catch (const ApiError& error) {
      metrics_.count(name, std::to_string(error.status));
      throw;
    } catch (const QueueFull& full) {
      metrics_.count(name, "429");
      throw ApiError(429, fmt::format("{}; try again in a moment", full.what()), "", "queue_full");
    } catch (const QueueEnding& ending) {
      metrics_.count(name, "503");
      throw ApiError(503, ending.what(), "", "shutting_down");
    } catch (const UserError& error) {
      metrics_.count(name, "400");
      throw ApiError(400, error.what());
    }
  }

  ordered_json model_entry(const ServedModel& model) const {
    ordered_json entry = {
        {"id", model.id}, {"object", "model"}, {"created", started_}, {"owned_by", "llmft"}};
    entry["parent"] =
        model.weights == AnswerWeights::base ? ordered_json() : ordered_json(context_.models[0].id);
    entry["max_model_len"] = context_.max_context;
    return entry;
  }
  ordered_json model_list() const {
    ordered_json list = {{"object", "list"}, {"data", ordered_json::array()}};
    for (const ServedModel& model : context_.models) list["data"].push_back(model_entry(model));
    return list;
  }
  ordered_json model(const std::string& id) const {
    for (const ServedModel& model : context_.models)
      if (model.id == id) return model_entry(model);
    throw ApiError(404, fmt::format("the model '{}' is not served here", id), "model", "model_not_found");
  }
  std::string health() const {
    EngineStats stats = queue_.engine().stats();
    return ordered_json({{"status", "ok"}, {"running", stats.running}, {"waiting", stats.waiting}}).dump();
  }

  ApiContext context_;
  Access access_;
  std::time_t started_;
  Metrics metrics_;
  GenerationQueue queue_;
  std::unique_ptr<HttpServer> http_;
};

std::string last_part(const std::string& folder) {
  std::error_code ec;
  std::filesystem::path path = std::filesystem::weakly_canonical(folder, ec);
  if (ec) path = folder;
  if (path.filename().empty()) path = path.parent_path();  // "runs/x/"
  std::string name = path.filename().string();
  if (name == "adapter" || name == "model") {  // runs/NAME/adapter
    std::string parent = path.parent_path().filename().string();
    if (!parent.empty() && parent != "/") name = parent;
  }
  return name.empty() ? "model" : name;
}

}  // namespace

ModelNames model_names(const std::string& model_folder, const std::string& adapter_folder) {
  ModelNames names{last_part(model_folder), adapter_folder.empty() ? "" : last_part(adapter_folder)};
  if (names.adapted == names.base) names.adapted += "-adapter";
  return names;
}

void check_port_is_free(const ServeOptions& options) {
  make_http_server(options.host, static_cast<int>(options.port), limits_of(options), {});
}

std::unique_ptr<ChatService> make_chat_service(Engine& engine, const Tokenizer& tokenizer,
                                               TemplateKind chat_template, const ModelNames& names,
                                               const ServeOptions& options) {
  return std::make_unique<Service>(engine, tokenizer, chat_template, names, options);
}

}  // namespace llmft

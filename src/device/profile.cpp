#include "llmft/device/profile.hpp"

#include <algorithm>
#include <utility>

namespace llmft {

Profile::Profile(Device& device) : device_(device) {}

std::unique_ptr<Mark> Profile::mark() {
  std::unique_ptr<Mark> mark;
  if (free_.empty()) {
    mark = device_.make_mark();
  } else {
    mark = std::move(free_.back());
    free_.pop_back();
  }
  mark->record();
  return mark;
}

void Profile::begin() {
  counting_ = true;
  settled_until_ = mark();
}

// Stretches of the step before this one are done by now, or nearly so: the host is at most a step ahead.
void Profile::step_done() {
  if (!counting_) return;
  ++result_.steps;
  settle(stretches_.size() - of_last_step_);
  of_last_step_ = stretches_.size();
}

void Profile::end() {
  if (!counting_) return;
  counting_ = false;
  end_ = mark();
}

bool Profile::enter(std::string_view group, double flops, double bytes) {
  if (!counting_ || open_) return false;
  open_ = true;
  auto& groups = result_.groups;
  auto found = std::find_if(groups.begin(), groups.end(), [&](const Group& g) { return g.name == group; });
  if (found == groups.end()) found = groups.insert(groups.end(), Group{std::string(group)});
  stretches_.push_back({static_cast<size_t>(found - groups.begin()), flops, bytes, mark(), nullptr});
  return true;
}

void Profile::leave() {
  open_ = false;
  stretches_.back().end = mark();
}

void Profile::settle(size_t keep) {
  while (stretches_.size() > keep) {
    Stretch& s = stretches_.front();
    s.end->wait();
    Group& group = result_.groups[s.group];
    ++group.calls;
    group.seconds += s.end->seconds_since(*s.begin);
    group.flops += s.flops;
    group.bytes += s.bytes;
    double gap = s.begin->seconds_since(*settled_until_);
    result_.gaps += gap;
    result_.seconds += gap + s.end->seconds_since(*s.begin);
    free_.push_back(std::exchange(settled_until_, std::move(s.end)));
    free_.push_back(std::move(s.begin));
    stretches_.pop_front();
  }
}

Profile::Result Profile::result() {
  check(end_ != nullptr, "a profile is read before its end");
  end_->wait();
  settle(0);
  double gap = end_->seconds_since(*settled_until_);
  result_.gaps += gap;
  result_.seconds += gap;
  free_.push_back(std::exchange(settled_until_, std::move(end_)));
  return result_;
}

ProfileScope::ProfileScope(Profile* profile, std::string_view group, double flops, double bytes)
    : profile_(profile != nullptr && profile->enter(group, flops, bytes) ? profile : nullptr),
      range_(profile_ != nullptr ? group : std::string_view()) {}

ProfileScope::~ProfileScope() {
  if (profile_ != nullptr) profile_->leave();
}

}  // namespace llmft

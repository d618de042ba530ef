# What a token says, by Ruby's net/http: ruby introspect.rb TOKEN
# INTROSPECTD is the address; CLIENT_ID and CLIENT_SECRET are the caller's.
require "json"
require "net/http"
require "uri"

# Whatever is not a 200 is no answer: let nobody in.
def ask(path, token)
  uri = URI(ENV.fetch("INTROSPECTD") + path)
  request = Net::HTTP::Post.new(uri)
  request.set_form_data(token: token)
  request.basic_auth(URI.encode_www_form_component(ENV.fetch("CLIENT_ID")), URI.encode_www_form_component(ENV.fetch("CLIENT_SECRET")))
  response = Net::HTTP.start(uri.host, uri.port, use_ssl: uri.scheme == "https", open_timeout: 1, read_timeout: 2) { |http| http.request(request) }
  raise "#{path}: #{response.code}" unless response.code == "200"

  JSON.parse(response.body)
end

answer = ask("/introspect", ARGV[0])
if answer["active"] != true
  puts "refused"
  exit
end
puts "active #{answer["sub"]}"
transformed = ask("/transform", ARGV[0])
puts "claims #{transformed["claims"]["sub"]}" if transformed["active"] == true

package qupath.lib.io

import groovy.json.JsonOutput
import groovy.json.JsonSlurper

/** Signatures: QuPath, qupath.lib.io.GsonTools, and Gson; numbers of a Map become Double there. */
class GsonTools {
    static Gson getInstance() { new Gson() }

    static class Gson {
        String toJson(Object value) {
            check(value)
            return JsonOutput.toJson(value)
        }

        public <T> T fromJson(String text, Class<T> type) { (T) doubles(new JsonSlurper().parseText(text)) }

        private static Object doubles(Object part) {
            if (part instanceof Map)
                return part.collectEntries { key, value -> [key, doubles(value)] }
            if (part instanceof List)
                return part.collect { doubles(it) }
            return part instanceof Number ? part.doubleValue() : part
        }

        /** Gson writes the fields of a GString, not its text. */
        private static void check(Object part) {
            if (part instanceof GString)
                throw new IllegalArgumentException('a GString in JSON: ' + part)
            if (part instanceof Map)
                part.each { key, value -> check(key); check(value) }
            if (part instanceof List)
                part.each { check(it) }
        }
    }
}
